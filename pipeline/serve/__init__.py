"""HTTP: one bounded server for every port, who may ask, and bodies. uvicorn and starlette do the rest."""
