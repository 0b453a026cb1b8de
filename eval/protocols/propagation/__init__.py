"""How far features carry the first frame of a video: its mask, or its key points; and what they are held against."""
