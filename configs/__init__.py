"""Config files that come with the package; the command line reads them as resources."""
