"""Scoring at the edge, over MQTT: `python -m mlops_nb.edge SPEC.json` is the module that runs on a device.

`module` is the process, `link` the connection, `ledger` what must survive kill -9, `models` the files and what is loaded of them, `bodies`
JSON and CBOR, `twin` what a device should run and what it says it runs.  `requester` asks, from anywhere.  The workspace's side of it is
`mlops_nb.fleet`.
"""
