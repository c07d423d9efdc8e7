"""What a frozen or fine-tuned encoder is worth: tasks, heads, baselines, scores and reports."""
