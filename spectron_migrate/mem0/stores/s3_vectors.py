"""An index of Amazon S3 Vectors. It has no count, so the second listing is cut into other segments than the first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from spectron_migrate.errors import InputError, KeyRefused, MigrateError, Unreachable
from spectron_migrate.mem0.stores.listed import ListedStore, Row, missing_driver
from spectron_migrate.mem0.stores.oss_config import VectorStore

_PAGE = 500
_MOST_FETCHED = 100
_SEGMENTS = 2
_MOST_TRIES = 5
_REFUSED = ("AccessDenied", "UnrecognizedClient", "InvalidClientToken", "SignatureDoesNotMatch", "ExpiredToken")


class S3Vectors(ListedStore):
    """One index of a bucket of vectors."""

    kind = "index"
    counts = "never"

    def __init__(self, store: VectorStore) -> None:
        """Prepare the client with the AWS credentials of this machine; raises InputError without the driver."""
        self._bucket = str(store.settings.get("vector_bucket_name") or "")
        super().__init__(store.collection, f"in the bucket {self._bucket}")
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise missing_driver("boto3", "aws") from error
        region = store.settings.get("region_name") or store.settings.get("region")
        how = Config(retries={"mode": "standard", "total_max_attempts": 6}, connect_timeout=15, read_timeout=60)
        try:
            self._client = boto3.client("s3vectors", region_name=region, config=how)
        except Exception as error:
            raise self.explained(error) or error from error
        self._index = {"vectorBucketName": self._bucket, "indexName": store.collection}

    def exists(self) -> bool:
        try:
            self._client.get_index(**self._index)
        except self._client.exceptions.NotFoundException:
            return False
        return True

    def names(self) -> list[str] | None:
        try:
            listed = self._client.list_indexes(vectorBucketName=self._bucket)
        except Exception as error:
            if self.explained(error) is None:
                raise
            return None
        return [one["indexName"] for one in listed["indexes"]]

    def pages(self, *, payload: bool) -> Iterator[list[Row]]:
        cuts: list[dict[str, int]] = [{}]
        if not payload:
            cuts = [{"segmentCount": _SEGMENTS, "segmentIndex": number} for number in range(_SEGMENTS)]
        for cut in cuts:
            following: dict[str, Any] = {}
            while True:
                how = {**self._index, **cut, **following, "maxResults": _PAGE, "returnMetadata": payload}
                page = self._answer(self._client.list_vectors, how)
                yield _rows(page)
                if not page.get("nextToken"):
                    break
                following = {"nextToken": page["nextToken"]}

    def fetch(self, keys: Sequence[str]) -> Iterable[Row]:
        for begin in range(0, len(keys), _MOST_FETCHED):
            wanted = list(keys[begin : begin + _MOST_FETCHED])
            how = {**self._index, "keys": wanted, "returnMetadata": True}
            yield from _rows(self._answer(self._client.get_vectors, how))

    def explained(self, error: Exception) -> MigrateError | None:
        from botocore import exceptions

        if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
            return KeyRefused(f"AWS credentials are missing: {error}", hint="set AWS_PROFILE or AWS_ACCESS_KEY_ID")
        if isinstance(error, exceptions.ClientError):
            code, text = error.response["Error"]["Code"], str(error)
            if code.startswith(_REFUSED):
                hint = "it needs s3vectors:GetIndex, s3vectors:ListVectors and s3vectors:GetVectors"
                return KeyRefused(f"the bucket {self._bucket} refuses this key: {text}", hint=hint)
            if error.response["ResponseMetadata"].get("HTTPStatusCode", 0) in (429, 500, 503):
                return Unreachable(f"the bucket {self._bucket} gave no usable answer: {text}")
            return InputError(f"the bucket {self._bucket} cannot be read: {text}")
        if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
            return Unreachable(f"the bucket {self._bucket} cannot be reached: {error}")
        if isinstance(error, exceptions.BotoCoreError):
            return InputError(f"the bucket {self._bucket} cannot be read: {error}")
        return None

    def close(self) -> None:
        self._client.close()

    def _answer(self, ask: Callable[..., Any], how: Mapping[str, Any]) -> dict[str, Any]:
        """An answer with rows. The driver takes an answer that was cut off for an empty one."""
        for _ in range(_MOST_TRIES):
            page: dict[str, Any] = ask(**how)
            if "vectors" in page:
                return page
        raise Unreachable(f"the bucket {self._bucket} gave no whole answer", hint="run it again")


def _rows(page: dict[str, Any]) -> list[Row]:
    return [Row(one["key"], one["key"], one.get("metadata")) for one in page["vectors"]]
