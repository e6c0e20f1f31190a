"""A private object storage that speaks S3: moto's server, a process of its own that keeps everything in memory."""

import signal
import socket
import subprocess
import sys
import time
from itertools import count
from typing import Any, Self

import boto3
from botocore.config import Config

from tests.servers import START_TIMEOUT, Account, die_with_parent, free_port

_numbers = count(1)


class Objects:
    """`start()`, use, `stop()`. `client` looks into it from outside; `account` is one that it lets in, as any other."""

    def __init__(self) -> None:
        self.account = Account("exporter-access-key", "secret-key-for-tests")
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Raises RuntimeError when it does not answer."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                self.client: Any = boto3.client(
                    "s3",
                    endpoint_url=self.endpoint,
                    region_name="us-east-1",
                    aws_access_key_id=self.account.username,
                    aws_secret_access_key=self.account.password,
                    config=Config(s3={"addressing_style": "path"}),
                )
                return self
        raise RuntimeError("the object storage does not answer")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def new_bucket(self) -> str:
        name = f"exports-{next(_numbers)}"
        self.client.create_bucket(Bucket=name)
        return name

    def settings(self, bucket: str, **changes: str) -> dict[str, str]:
        """The keys of the section export that lead to `bucket`; `changes` are put over them, without their s3_."""
        values = {
            "bucket": bucket,
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key": self.account.username,
            "secret_key": self.account.password,
            "prefix": "reports",
            "addressing": "path",
        }
        return {"storage": "s3"} | {f"s3_{name}": value for name, value in (values | changes).items()}

    def keys(self, bucket: str) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [found["Key"] for page in pages for found in page.get("Contents", ())]

    def content(self, bucket: str, key: str) -> bytes:
        found: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return found

    def unfinished(self, bucket: str) -> list[str]:
        """The keys of uploads that were begun and neither ended nor aborted."""
        found = self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
        return [upload["Key"] for upload in found]
