"""Scoring at the edge, over MQTT: `python -m mlops_nb.edge SPEC.json` is the module that runs on a device.

The device's side is `module` (the process), `link` (the connection), `ledger` (what must survive kill -9), `models` (the files and
what is loaded of them) and `bodies` (JSON and CBOR).  The workspace's side is `fleet` (what devices tell) and `manifest`.  Both speak
of `twin`: what a device should run, and what it says it runs.  `requester` asks, from anywhere.
"""
