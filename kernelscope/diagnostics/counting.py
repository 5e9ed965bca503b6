"""Things that are counted, in words."""


def counted(count: int, thing: str, several: str = "") -> str:
    """How many of something, in one or in many.

    Example:
        >>> counted(1, "query", "queries"), counted(1200, "mode")
        ('1 query', '1,200 modes')
    """
    return f"{count:,} {thing if count == 1 else several or thing + 's'}"
