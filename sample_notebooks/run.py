"""Run the sample notebook from top to bottom, show how it goes, and leave its endpoint and dashboard running: what `make demo` does."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).parent
NOTEBOOK = HERE / "01_from_notebook_to_endpoint.ipynb"


def main() -> int:
    """Run it; 0 when every cell did."""
    os.environ["MLOPS_HOME"] = os.environ.get("MLOPS_HOME") or str(HERE.parent / ".mlops")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    began = time.monotonic()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]

    def started(cell: nbformat.NotebookNode, cell_index: int) -> None:
        if cell.cell_type == "code":
            print(f"[{time.monotonic() - began:5.1f} s] {code.index(cell) + 1:2d}/{len(code)}  {_headline(cell.source)}", flush=True)

    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(HERE)}}, on_cell_start=started)
    client.extra_arguments = ["--log-level=ERROR"]
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"\nThis cell failed:\n{error}", file=sys.stderr)
        return 1
    _tell(time.monotonic() - began)
    return 0


def _headline(source: str) -> str:
    lines = source.splitlines()
    return next((line for line in lines if "%mlops" in line), lines[0])[:110]


def _tell(seconds: float) -> None:
    from mlops_nb import dashboards, rollout

    view = rollout.endpoints("delays")[0]
    flight = '[{"carrier":"UA","origin":"EWR","dest":"IAH","hour":18,"weekday":4,"distance":1400,"temp":85.0,"wind_speed":12.0,"precip":0.3,"visib":6.0}]'
    print(f"\nDone in {seconds:.0f} s.  The endpoint is live:\n")
    for deployment in view.deployments:
        print(f"  {view.name}/{deployment.name}  {deployment.model}  {deployment.status}  {deployment.traffic} % of the traffic")
    print(f"\nAsk it:\n\n  curl -s {view.url}/score -H \"Authorization: Bearer $(.venv/bin/mlops endpoints key {view.name})\" -d '{flight}'\n")
    print(f"Dashboard: {dashboards.address()}")
    print("Stop everything: make down")


if __name__ == "__main__":
    raise SystemExit(main())
