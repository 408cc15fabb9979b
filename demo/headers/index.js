// curl "$GATEWAY/fn/headers"  →  the request's headers, as the function sees them
module.exports = (req, res) => {
  res.json(req.headers);
};
