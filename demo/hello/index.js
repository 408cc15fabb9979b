// curl "$GATEWAY/fn/hello?name=Vik"  →  Hello Vik
module.exports = (req, res) => {
  res.send(`Hello ${req.query.name || 'World'}`);
};
