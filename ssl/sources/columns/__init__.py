"""The source `columns`: atmospheric columns, labelled by reference fluxes or not."""
