"""File formats that xarray alone does not read as users expect: GRIB by kinds of field, classic NetCDF by its size."""
