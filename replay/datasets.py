"""Amazon's published logs: where each category's events and metadata are.

A name is `amazon-<year>-<category>`, such as `amazon-2014-beauty`; with `-5core` behind it, only
users and items with at least five events. The data carries no open licence: research use, cite
He & McAuley (WWW'16) and McAuley et al. (SIGIR'15) for 2014, Ni et al. (EMNLP'19) for 2018,
Hou et al. (arXiv:2403.03952) for 2023.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from replay.errors import ReplayError

SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
UCSD = "https://mcauleylab.ucsd.edu/public_datasets/data"
V2 = f"{UCSD}/amazon_v2"
V3 = f"{UCSD}/amazon_2023"

COMMON = """
Automotive Books CDs_and_Vinyl Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music
Electronics Grocery_and_Gourmet_Food Home_and_Kitchen Kindle_Store Movies_and_TV Musical_Instruments
Office_Products Patio_Lawn_and_Garden Pet_Supplies Sports_and_Outdoors Tools_and_Home_Improvement
Toys_and_Games Video_Games
"""
COMMON_SINCE_2018 = """
All_Beauty Appliances Arts_Crafts_and_Sewing Gift_Cards Industrial_and_Scientific
Magazine_Subscriptions Software
"""
CATEGORIES = {
    2014: COMMON + "Amazon_Instant_Video Apps_for_Android Baby Beauty Health_and_Personal_Care",
    2018: COMMON + COMMON_SINCE_2018 + "AMAZON_FASHION Luxury_Beauty Prime_Pantry",
    2023: COMMON
    + COMMON_SINCE_2018
    + """Amazon_Fashion Baby_Products Beauty_and_Personal_Care Handmade_Products
    Health_and_Household Health_and_Personal_Care Subscription_Boxes""",
}
ADDRESSES = {
    2014: (
        f"{SNAP}/ratings_{{0}}.csv",
        f"{SNAP}/reviews_{{0}}_5.json.gz",
        f"{SNAP}/meta_{{0}}.json.gz",
    ),
    2018: (
        f"{V2}/categoryFilesSmall/{{0}}.csv",
        f"{V2}/categoryFilesSmall/{{0}}_5.json.gz",
        f"{V2}/metaFiles2/meta_{{0}}.json.gz",
    ),
    2023: (
        f"{V3}/benchmark/0core/rating_only/{{0}}.csv.gz",
        f"{V3}/benchmark/5core/rating_only/{{0}}.csv.gz",
        f"{V3}/raw/meta_categories/meta_{{0}}.jsonl.gz",
    ),
}


@dataclass(frozen=True)
class Dataset:
    """Where a log and its catalogue are published."""

    events: str
    items: str


def _datasets() -> dict[str, Dataset]:
    found = {}
    for year, categories in CATEGORIES.items():
        everything, five_core, metadata = ADDRESSES[year]
        for category in categories.split():
            name = f"amazon-{year}-{category.lower().replace('_', '-')}"
            items = metadata.format(category)
            found[name] = Dataset(everything.format(category), items)
            found[f"{name}-5core"] = Dataset(five_core.format(category), items)
    return found


DATASETS = _datasets()


def find_dataset(name: str) -> Dataset:
    """The dataset of that name.

    Raises:
        ReplayError: if there is none; the message offers similar names.
    """
    if name in DATASETS:
        return DATASETS[name]
    similar = difflib.get_close_matches(name, DATASETS, n=4, cutoff=0.5)
    hint = f"did you mean {', '.join(similar)}?" if similar else "try amazon-2014-beauty"
    raise ReplayError(f"no dataset {name!r}; {hint}")
