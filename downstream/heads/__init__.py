"""What is fitted on frozen features: ridge, logistic, neighbours, attentive, MLP, patch heads."""
