"""How long a search over saved conversations takes: `python -m benchmarks.chat_search [--messages 10000]`.

Fills a database of its own with messages of some 900 characters and searches it for frequent, rare, short and absent
words. Prints one JSON line with the milliseconds of each search, the median of seven.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from tests.tui.sessions.many import SEARCHED, many_messages

RUNS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000)
    options = parser.parse_args()
    milliseconds: dict[str, list[float]] = {words: [] for words in SEARCHED}
    with tempfile.TemporaryDirectory() as folder:
        store = many_messages(Path(folder) / "chats.db", options.messages)
        for _ in range(RUNS):
            for words, times in milliseconds.items():
                started = time.perf_counter()
                store.search(words)
                times.append(1000 * (time.perf_counter() - started))
        store.close()
    medians = {words: round(statistics.median(times), 1) for words, times in milliseconds.items()}
    print(json.dumps({"messages": options.messages, "ms": medians, "slowest_ms": max(medians.values())}))


if __name__ == "__main__":
    main()
