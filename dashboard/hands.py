"""Buttons that change how requests are divided.  Each takes two clicks: the first says exactly what will happen, the second has it done.

They use the same verbs as `%mlops rollback` and `%mlops rollouts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import parts
import streamlit as st

from mlops_nb import traffic
from mlops_nb.errors import MlopsError
from mlops_nb.store.rollouts import Rollout


class Deed(msgspec.Struct, frozen=True):
    """One thing that can be done now, and what it would do."""

    name: str
    icon: str
    will: str
    """What will happen, exactly; empty where it cannot be done."""
    line: str
    """The same as a `%mlops` line; why not, where it cannot be done."""
    do: Callable[[], object]


def show(endpoint: str, weights: Mapping[str, int], under_way: Rollout | None) -> None:
    """The three buttons; below them the question, once one was pressed."""
    deeds = [_promote(endpoint, weights, under_way), _roll_back(endpoint, weights, under_way), _cancel(endpoint, weights, under_way)]
    with st.container(horizontal=True):
        for deed in deeds:
            st.button(
                deed.name, icon=f":material/{deed.icon}:", disabled=not deed.will, help=parts.plain(deed.line), key=f"deed-{deed.name}",
                on_click=_ask, args=(endpoint, deed),
            )  # fmt: skip
    asked = st.session_state.get("deed")
    if asked and asked[0] == endpoint:
        _confirm(endpoint, next((deed for deed in deeds if deed.name == asked[1]), None), shown=asked[2])
    if done := st.session_state.pop("deed-done", None):
        st.success(parts.plain(done), icon=":material/check:")
    if trouble := st.session_state.pop("deed-trouble", None):
        parts.mistake(trouble)


def _confirm(endpoint: str, deed: Deed | None, *, shown: str) -> None:
    if deed is None or not deed.will:
        st.session_state.pop("deed", None)
        st.info("That cannot be done any more: the split changed meanwhile.", icon=":material/info:")
        return
    with st.container(border=True):
        if deed.will != shown:
            st.markdown(":material/info: **The split changed since you asked. Now it would be:**")
        st.text(deed.will)
        st.code(deed.line, language=None)
        with st.container(horizontal=True):
            st.button(f"Yes, {deed.name.lower()}", type="primary", key="deed-yes", on_click=_carry_out, args=(deed,))
            st.button("No", key="deed-no", on_click=_forget)


def _ask(endpoint: str, deed: Deed) -> None:
    st.session_state["deed"] = (endpoint, deed.name, deed.will)


def _forget() -> None:
    st.session_state.pop("deed", None)


def _carry_out(deed: Deed) -> None:
    _forget()
    try:
        deed.do()
    except MlopsError as error:
        st.session_state["deed-trouble"] = error
    else:
        st.session_state["deed-done"] = f"Done: {deed.line}"


def _promote(endpoint: str, weights: Mapping[str, int], under_way: Rollout | None) -> Deed:
    line = f"%mlops rollouts promote {endpoint}"
    if under_way is None or not under_way.deployment:
        return Deed("Promote", "upgrade", "", "No canary or ramp is under way.", lambda: None)
    will = f"{endpoint}/{under_way.deployment} gets 100 % of the requests now (it has {weights.get(under_way.deployment, 0)} %); the {under_way.kind} ends."
    return Deed("Promote", "upgrade", will, line, lambda: traffic.promote(endpoint, why="promoted in the dashboard"))


def _roll_back(endpoint: str, weights: Mapping[str, int], under_way: Rollout | None) -> Deed:
    try:
        earlier = traffic.before(endpoint)
    except MlopsError as error:
        return Deed("Roll back", "undo", "", str(error), lambda: None)
    ends = f" The {under_way.kind} under way ends." if under_way else ""
    will = f"The split of {endpoint} goes from {_shares(weights)} back to {_shares(earlier)}.{ends}"
    return Deed("Roll back", "undo", will, f"%mlops rollback {endpoint}", lambda: traffic.roll_back(endpoint, why="rolled back in the dashboard"))


def _cancel(endpoint: str, weights: Mapping[str, int], under_way: Rollout | None) -> Deed:
    if under_way is None:
        return Deed("Cancel", "cancel", "", "No rollout is under way.", lambda: None)
    will = f"The {under_way.kind} of {endpoint} ends; the split stays as it is: {_shares(weights)}."
    return Deed("Cancel", "cancel", will, f"%mlops rollouts cancel {endpoint}", lambda: traffic.cancel(endpoint, why="cancelled in the dashboard"))


def _shares(weights: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {share} %" for name, share in weights.items() if share) or "nobody"
