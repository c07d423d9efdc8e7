"""radiation: fluxes and heating rates of atmospheric columns, the energy of each closed by construction."""
