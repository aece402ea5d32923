"""What tests and notebooks have in common when pytest runs them."""

import os

# what they print is compared, and a progress bar would stand before it; tqdm reads this when it is imported, here and
# in the kernels and other processes that are started
os.environ.setdefault("TQDM_DISABLE", "1")
