"""Virtual actors: run. The hosts that activate them, run their methods and commit what these did; the way to them."""
