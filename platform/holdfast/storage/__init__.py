"""Storage: remembers. The only room that knows keys, files and formats; it decides nothing."""
