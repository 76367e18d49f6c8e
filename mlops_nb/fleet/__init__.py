"""Edge devices as the workspace sees them: what they tell (`listening`, `devices`), and what is written for them (`keys`, `provisioning`, `manifest`).

What runs on a device is `mlops_nb.edge`.
"""
