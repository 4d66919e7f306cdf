"""LangChain's face of memory: a ``VectorStore``, and so a retriever, over the store and its index.

>>> memory = MemoryVectorStore(store, embedder, index)
>>> memory.add_texts(["The office is in Lyon."]); memory.as_retriever().invoke("Where is the office?")

Texts go through the write gate like everything else: what is already there is not written twice (the
answer is the id of the entry that is there), and what the gate refuses raises ``ValueError`` with its
reason. Documents carry the entry's id, kind, label, namespace, source and time as metadata. Only this
module of memory imports LangChain, and nothing imports it before it is asked for. Limits: metadata of
the caller is kept for ``source`` alone, filters are those of namespace and kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from ..errors import UsageError
from ..labels import Label
from .entry import GLOBAL, Draft, Embedder, Entry, Kind, VectorIndex, Verdict
from .store import MemoryStore
from .upkeep.forgetting import forget
from .vectors.chroma import FOLDER, purge


class MemoryEmbeddings(Embeddings):
    """Our embedder as LangChain's."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each passage."""
        vectors: list[list[float]] = self._embedder.embed(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        vector: list[float] = self._embedder.embed([text], query=True)[0].tolist()
        return vector


class MemoryVectorStore(VectorStore):
    """Memory in ``namespace`` (reading also what is global), as LangChain's vector store.

    ``label`` is what added texts are marked with: untrusted unless the program vouches for them.
    """

    def __init__(
        self,
        store: MemoryStore,
        embedder: Embedder,
        index: VectorIndex,
        namespace: str = GLOBAL,
        label: Label = Label.UNTRUSTED,
    ) -> None:
        self._store, self._embedder, self._index = store, embedder, index
        self._namespace, self._label = namespace, label

    @property
    def embeddings(self) -> Embeddings:
        """The embedder, as LangChain's."""
        return MemoryEmbeddings(self._embedder)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> MemoryVectorStore:
        """Not offered, as memory brings its own embedder. Raises ``UsageError``."""
        raise UsageError("memory is opened, not made from texts: MemoryVectorStore(store, embedder, index)")

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Remember ``texts`` and return the entries' ids; ids are memory's own and cannot be given.

        All are written or, when the gate refuses one, the others still are and ``ValueError`` says why.
        """
        given = list(texts)
        if ids and any(ids):
            raise ValueError("memory numbers its entries itself; ids cannot be given")
        notes = metadatas or [{} for _ in given]
        sources = [str(note.get("source", "langchain")) for note in notes]
        drafts = [
            Draft(Kind.DOCUMENT, text, self._namespace, self._label, source=source)
            for text, source in zip(given, sources, strict=True)
        ]
        if not drafts:
            return []
        written = self._store.write_many(drafts, self._embedder.embed(given), self._embedder.id)
        for number, answer in enumerate(written):
            if answer.entry is None and answer.verdict is Verdict.REFUSED:
                raise ValueError(f"text {number} was refused: {answer.reason}")
        return [str(answer.entry.id) for answer in written if answer.entry is not None]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Really forget entries; whether all were there. Without ids nothing is deleted."""
        if ids is None:
            raise ValueError("name the ids to delete")
        gone = forget(self._store, [int(entry) for entry in ids], "deleted through LangChain")
        purge(self._store.home / FOLDER, gone.change)
        return len(gone.entries) == len(set(ids))

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids; those that are gone are skipped."""
        return [_document(entry) for entry in self._store.get([int(entry) for entry in ids])]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the ``k`` documents nearest to ``query``; ``kind`` restricts them."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, kind: Kind | str | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the ``k`` nearest documents with their cosines, nearest first."""
        if kwargs.get("filter"):
            raise ValueError("filters are not offered; use kind=..., or a store over another namespace")
        vector = self._embedder.embed([query], query=True)[0]
        wanted = k if kind is None else 10 * k
        spaces = list(dict.fromkeys([GLOBAL, self._namespace]))
        found = dict(self._index.search(vector, wanted, spaces))
        entries = [each for each in self._store.get(list(found)) if kind is None or each.kind == Kind(kind)]
        return [(_document(entry), found[entry.id]) for entry in entries[:k]]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: min(1.0, max(0.0, cosine))


def _document(entry: Entry) -> Document:
    notes = {
        "kind": entry.kind.value,
        "label": entry.label.value,
        "namespace": entry.namespace,
        "source": entry.source,
        "created": entry.created,
    }
    return Document(id=str(entry.id), page_content=entry.text, metadata=notes)
