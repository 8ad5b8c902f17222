"""Methods of a run: the toolboxes' objects attached to its hooks. One file a method."""
