"""The Hugging Face Hub: what it has (``api``), which files are needed (``choice``), fetching (``download``), keeping (``cache``).

Written against the Hub's documented HTTP interface, and not on ``huggingface_hub``: since its version 2 a
download that is killed begins again at the first byte, and ours must go on where it ended. The cache's
layout is the library's own, so engines and other tools find what we fetched, and we what they did.
"""
