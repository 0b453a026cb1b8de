"""What ``import eyespot`` offers: the commands' own work as functions, which return values and raise errors."""

import warnings

# In a notebook without ipywidgets an import of a library would tell every reader to install them; our bars need none.
warnings.filterwarnings("ignore", "IProgress not found")
