"""Model versions on a Kubernetes cluster: what is applied there (`manifests`), how the cluster is talked to (`client`), what it says (`reading`).

`keeping` does the talking beside the agent's loop: a cluster that does not answer holds nothing up.
"""
