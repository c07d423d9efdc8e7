"""Files elsewhere: addresses, web servers, S3, the Hugging Face Hub, resumable download."""
