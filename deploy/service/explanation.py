"""Why an answer is what it is: the user's clicks by code, and what each searched code holds."""

from __future__ import annotations

from collections import Counter

import numpy as np

from deploy.service import schema as schema
from indexer.search.query import Answer, Query
from indexer.search.retriever import Retriever


def explained(
    retriever: Retriever, query: Query, answer: Answer, response: schema.RetrieveResponse
) -> schema.Explanation:
    """The answer with the clicks it rests on, and each searched code with its own items first."""
    clicked = list(query.items)[-50:]
    codes, _ = retriever.snapshot.lists.locate(np.array(clicked, np.int64))
    touched = Counter(code for code in codes.tolist() if code >= 0)
    probabilities = {one.code: one.probability for one in answer.searched}
    searched = set(probabilities)
    # Items of strong evidence are scored whatever their code, so codes beside the searched ones
    # may have brought some.
    for code, probability in zip(answer.codes, answer.code_probabilities, strict=True):
        probabilities.setdefault(code, probability)
    brought = Counter(answer.codes)
    return schema.Explanation(
        answer=response,
        history=[
            schema.Click(item_id=item, code=code if code >= 0 else None, **text)
            for item, code, text in zip(
                clicked, codes.tolist(), retriever.titles(clicked), strict=True
            )
        ],
        codes=[
            schema.ExplainedCode(
                code=code,
                probability=probability,
                searched=code in searched,
                quota=brought[code],
                clicks=touched[code],
                explored=touched[code] == 0,
                items_in_list=int(retriever.snapshot.lists.sizes_C[code]),
                label=retriever.label(code),
                items=[item for item in response.items if item.code == code],
            )
            for code, probability in probabilities.items()
        ],
    )
