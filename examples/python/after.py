"""The same assistant after the move: its memory is in Spectron, without Mem0. Usage: python after.py USER TEXT"""

import asyncio
import os
import sys

from spectron_migrate import SpectronClient


async def reply(client: SpectronClient, user: str, text: str) -> list[str]:
    """What is known about the text; the text itself is remembered, exactly once whatever fails."""
    async with client.sessions.create(scope={"user": user}) as session:
        found = await session.recall(text, top_k=5)
        await session.remember(text)
        return [hit.text for hit in found.hits]


async def main(user: str, text: str) -> None:
    """Print what the assistant knows about the text."""
    async with SpectronClient(
        base_url=os.environ["SPECTRON_ENDPOINT"],
        api_key=os.environ["SPECTRON_API_KEY"],
        context=os.environ["SPECTRON_CONTEXT"],
    ) as client:
        print("\n".join(await reply(client, user, text)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
