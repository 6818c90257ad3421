"""Files: parsing, checking, resolving. The only room that knows YAML and pydantic.

Most commands start with `costmodel.schema.resolve`. Single files are in `costmodel.schema.files`, published cases in
`costmodel.schema.case`, the description of the formats in `costmodel.schema.export`. Import them when needed: what is
kept in the catalogue needs neither YAML nor pydantic.
"""

from costmodel.declared import SI
from costmodel.schema.resolved import ResolvedWorkload

__all__ = ["SI", "ResolvedWorkload"]
