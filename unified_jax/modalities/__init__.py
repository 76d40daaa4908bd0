"""One file per modality: raw <-> model space, patches, positions, and how an example is saved.

Nothing here depends on networks.
"""
