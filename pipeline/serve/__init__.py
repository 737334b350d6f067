"""HTTP: one bounded server for every port, access rules, and request bodies. uvicorn and starlette do the rest."""
