"""Networks trained on labels: fine-tuning, LoRA, from scratch."""
