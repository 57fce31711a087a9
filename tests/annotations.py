"""The checker that the tests put behind every annotation of the package."""

from beartype import BeartypeConf, beartype

# An int where a float is expected is fine, as for every type checker (PEP 484's numeric tower).
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
