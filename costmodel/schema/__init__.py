"""Files: parsing, checking, resolving. The only room that knows YAML and pydantic.

Most commands start with `resolve`. Single files are in `costmodel.schema.files`, published cases in
`costmodel.schema.case`, the description of the formats in `costmodel.schema.export`. Import them when needed.
"""

from costmodel.declared import SI
from costmodel.schema.resolve import ResolvedWorkload, resolve

__all__ = ["SI", "ResolvedWorkload", "resolve"]
