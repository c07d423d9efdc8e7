"""The local page that shows a store, what an encoder makes of it, and takes labels; and active learning."""
