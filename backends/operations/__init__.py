"""Operations: what their steps are (``plans``), how each is taken (``steps``), who runs them (``runner``)."""
