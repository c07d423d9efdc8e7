"""The verb finetune: from a user's labels to a tuned checkpoint."""
