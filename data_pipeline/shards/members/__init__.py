"""What archives and folders of other people hold: their members, which of them make a sample, what is left out."""
