"""Importing this says what is missing where what this room needs is not installed. Nothing else happens here."""

from holdfast.engine.errors import ExtraNotInstalledError

__all__: list[str] = []

try:
    import fastapi
    import ray.serve
except ImportError as error:
    raise ExtraNotInstalledError("Events over HTTP", "serve", str(error)) from error

# Imported to see whether that can be done.
del fastapi, ray
