"""A local page to try an index: an application of Starlette, and its server."""
