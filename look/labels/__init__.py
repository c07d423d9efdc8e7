"""Labels that people give on the page: the journal of marks, regions and their files, merging."""
