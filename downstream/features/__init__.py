"""What heads read: frozen features, patches, EOFs, windows, anomalies."""
