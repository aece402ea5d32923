// TeX on standard input, as a JSON list of [formula, whether it stands alone]; what a page shows of it on standard output.
const path = require("path");
const [folder, fontURL] = process.argv.slice(2);
const formulas = JSON.parse(require("fs").readFileSync(0, "utf8"));

require(path.join(folder, "node-main.js"))
  .init({
    loader: { load: ["input/tex-base", "[tex]/ams", "output/chtml"] },
    tex: {
      packages: ["base", "ams"],
      formatError: (jax, error) => {
        throw new Error(`${error.message}, in ${jax.latex}`);
      },
    },
    chtml: { fontURL },
    startup: { typeset: false },
  })
  .then((MathJax) => {
    const { adaptor } = MathJax.startup;
    const html = formulas.map(([tex, display]) => adaptor.outerHTML(MathJax.tex2chtml(tex, { display })));
    const mathml = formulas.map(([tex, display]) => MathJax.tex2mml(tex, { display }));
    // one sheet for all of them, with the characters that they have
    const css = adaptor.textContent(MathJax.chtmlStylesheet());
    console.log(JSON.stringify({ html, mathml, css }));
  })
  .catch((error) => {
    console.error(error.message ?? error);
    process.exit(1);
  });
