#!/usr/bin/env python3
"""What is in each package, and what crates.io and docs.rs are told of it.

    cargo metadata --no-deps --format-version 1 | .ci/package.py target/package
"""

import json
import pathlib
import re
import sys
import tarfile

PACKAGES = pathlib.Path(sys.argv[1])
ROOT = pathlib.Path(__file__).parent.parent

# What cargo adds, and what each crate says of itself.
ALWAYS = {".cargo_vcs_info.json", "Cargo.lock", "Cargo.toml", "Cargo.toml.orig"} | {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "src/lib.rs",
}
MAY = re.compile(r"src/[a-z0-9_/]+\.rs")

# Those that are used here, of https://crates.io/category_slugs: any other is ignored there.
CATEGORIES = {"network-programming", "os::unix-apis", "web-programming::http-server"}
KEYWORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,19}")
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")

problems = []


def check(crate, holds, problem):
    if not holds:
        problems.append(f"{crate}: {problem}")


def check_package(crate, version, path_in_repository):
    top = f"{crate}-{version}"
    with tarfile.open(PACKAGES / f"{top}.crate") as package:
        files = {name.removeprefix(f"{top}/") for name in package.getnames()}
        vcs = json.load(package.extractfile(f"{top}/.cargo_vcs_info.json"))
    for missing in sorted(ALWAYS - files):
        check(crate, False, f"{missing} is not in the package")
    for surprise in sorted(file for file in files - ALWAYS if not MAY.fullmatch(file)):
        check(crate, False, f"{surprise} is in the package")
    # From it crates.io knows what the relative links of a README are relative to.
    check(crate, vcs["path_in_vcs"] == path_in_repository, f"crates.io takes it for {vcs['path_in_vcs']}")
    print(f"ok {crate}: {len(files)} files")


def check_metadata(crate, package):
    for field in ["description", "license", "repository", "readme", "rust_version"]:
        check(crate, package[field], f"no {field}")
    check(crate, package["publish"] is None, "it is not to be published")
    keywords, categories = package["keywords"], package["categories"]
    check(crate, 0 < len(keywords) <= 5, f"{len(keywords)} keywords")
    check(crate, all(KEYWORD.fullmatch(word) for word in keywords), f"keywords {keywords}")
    check(crate, categories and CATEGORIES.issuperset(categories), f"categories {categories}")
    docs = ((package["metadata"] or {}).get("docs") or {}).get("rs") or {}
    if package["features"]:
        check(crate, docs.get("all-features"), "docs.rs does not show its features")
    for dependency in package["dependencies"]:
        # A path without a version is left out, which only tests can do without.
        versioned = dependency["req"] != "*" or dependency["kind"] == "dev"
        check(crate, versioned, f"any version of {dependency['name']}")


def check_files(crate, directory):
    licence = (directory / "LICENSE").read_text()
    check(crate, licence == (ROOT / "LICENSE").read_text(), "another LICENSE")
    check(crate, "\n## [" in (directory / "CHANGELOG.md").read_text(), "a CHANGELOG without versions")
    for link in LINK.findall((directory / "README.md").read_text()):
        if not link.startswith(("https://", "http://")):
            check(crate, (directory / link).exists(), f"README.md links to {link}")


def main():
    for package in json.load(sys.stdin)["packages"]:
        directory = pathlib.Path(package["manifest_path"]).parent
        if directory.parent.name != "crates":
            check(package["name"], package["publish"] == [], "it can be published")
            continue
        check_metadata(package["name"], package)
        check_files(package["name"], directory)
        check_package(package["name"], package["version"], f"crates/{directory.name}")
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(bool(problems))


main()
