"""How far away things are: what a linear function of patch tokens says of it, judged by depth maps."""
