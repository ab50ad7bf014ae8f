"""What is found, as the service says it: with what is shown of each item."""

from __future__ import annotations

from deploy.service import schema as schema
from indexer.search.query import Answer
from indexer.search.retriever import Retriever
from indexer.search.similar_items import SimilarAnswer


def retrieved(
    retriever: Retriever, answer: Answer, known_user: bool | None, arm: str | None
) -> schema.RetrieveResponse:
    """The answer to a query, of the arm that gave it."""
    return schema.RetrieveResponse(
        version=retriever.version,
        arm=arm,
        known_user=known_user,
        now_ms=answer.now_ms,
        items=[
            schema.RetrievedItem(
                item_id=item,
                score=score,
                code=code,
                code_probability=probability,
                propensity=propensity,
                **text,
            )
            for item, score, code, probability, propensity, text in zip(
                answer.items,
                answer.scores,
                answer.codes,
                answer.code_probabilities,
                answer.propensities,
                retriever.titles(answer.items),
                strict=True,
            )
        ],
        searched=[schema.SearchedCode(**vars(one)) for one in answer.searched],
    )


def similar(
    retriever: Retriever, answer: SimilarAnswer, known_user: bool | None, arm: str | None
) -> schema.SimilarResponse:
    """Items like an item."""
    return schema.SimilarResponse(
        version=retriever.version,
        arm=arm,
        known_user=known_user,
        now_ms=answer.now_ms,
        code=answer.code,
        items=[
            schema.SimilarItem(item_id=item, score=score, code=code, sources=sources, **text)
            for item, score, code, sources, text in zip(
                answer.items,
                answer.scores,
                answer.codes,
                answer.sources,
                retriever.titles(answer.items),
                strict=True,
            )
        ],
    )
