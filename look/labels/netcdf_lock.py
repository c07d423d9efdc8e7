"""One lock for whatever reads or writes NetCDF while the page is served: each request has a thread of its own."""

import threading

NETCDF_LOCK = threading.Lock()  # HDF5 and netCDF4 crash the process where two threads are inside them at once
