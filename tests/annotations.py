"""The type checker that tests apply to every annotation of the package."""

from beartype import BeartypeConf, beartype

# Accept an int where a float is expected, as static type checkers do (PEP 484's numeric tower).
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
