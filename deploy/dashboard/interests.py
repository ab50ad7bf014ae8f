"""A user's interests over time: p(code | clicks so far) after every click, and what is explored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.service.user_history import UserHistory
from indexer.search.query import Query
from indexer.search.retriever import Retriever
from model.histories import History

CODES_SHOWN = 8
NOW_SHOWN = 3
"""Of them, the most probable ones now; the others are those of the whole history."""


def interests(
    retriever: Retriever, history: UserHistory | None, now_ms: int, k: int
) -> dict[str, Any]:
    """Steps of a user's history with the probability of the codes that matter, and the answer.

    The first step is the prior, before any click; every further one follows a click.

    Args:
        retriever: of the served version.
        history: the user's clicks; None for an unknown user.
        now_ms: time of the answer.
        k: items of the answer.
    """
    items, times = (history.items, history.times) if history else ([], [])
    prefixes = [History(items[:n], times[:n]) for n in range(len(items) + 1)]
    at = [*([times[0]] if times else [now_ms]), *times]
    probabilities = retriever.interests(prefixes, np.array(at, np.int64))
    codes, _ = retriever.snapshot.lists.locate(np.array(items, np.int64))
    answer = retriever.answer(Query(items, times, now_ms=now_ms, k=k))
    touched = {code for code in codes.tolist() if code >= 0}
    shown = _worth_showing(probabilities)
    titles = retriever.titles(items)
    return {
        "known": history is not None,
        "version": retriever.version,
        "clicks": history.position if history else 0,
        "codes": [
            {"code": code, "label": retriever.label(code), "touched": code in touched}
            for code in shown
        ],
        "steps": [
            {
                "time_ms": int(at[n]),
                "item": None
                if n == 0
                else {"item_id": items[n - 1], "code": int(codes[n - 1]), **titles[n - 1]},
                "probabilities": [round(float(probabilities[n, code]), 5) for code in shown],
                "others": round(float(1 - probabilities[n, shown].sum()), 5),
            }
            for n in range(len(prefixes))
        ],
        "searched": [
            {
                "code": one.code,
                "label": retriever.label(one.code),
                "probability": one.probability,
                "quota": one.quota,
                "explored": one.code not in touched,
            }
            for one in answer.searched
        ],
        "answer": [
            {
                "item_id": item,
                "score": score,
                "code": code,
                "explored": code not in touched,
                **text,
            }
            for item, score, code, text in zip(
                answer.items,
                answer.scores,
                answer.codes,
                retriever.titles(answer.items),
                strict=True,
            )
        ],
    }


def _worth_showing(probabilities: NDArray[np.float64]) -> list[int]:
    """Codes of the picture: the most probable over all steps, and those of the last one."""
    now = np.argsort(-probabilities[-1], kind="stable")[:NOW_SHOWN].tolist()
    ever = np.argsort(-probabilities.mean(axis=0), kind="stable").tolist()
    chosen = {*now, *[code for code in ever if code not in now][: CODES_SHOWN - len(now)]}
    return [code for code in ever if code in chosen]
