document$.subscribe(({ body }) => {
  renderMathInElement(body, {
    delimiters: [
      { left: "\\(", right: "\\)", display: false },
      { left: "\\[", right: "\\]", display: true },
    ],
    macros: { "\\xt": "\\tilde{x}", "\\E": "\\operatorname{\\mathbb{E}}", "\\KL": "\\operatorname{KL}", "\\dd": "\\mathrm{d}" },
    throwOnError: false,
  });
});
