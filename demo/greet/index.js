// Several functions in one module: the first segment of the path chooses.
//
// curl "$GATEWAY/fn/greet/morning?name=Vik"  →  {"greeting":"Good morning, Vik"}
// curl "$GATEWAY/fn/greet/languages"         →  ["en","fr","hi"]
const words = {
  en: { morning: 'Good morning', evening: 'Good evening' },
  fr: { morning: 'Bonjour', evening: 'Bonsoir' },
  hi: { morning: 'सुप्रभात', evening: 'शुभ संध्या' },
};

const greet = (time) => (req, res) => {
  const language = req.query.language || 'en';
  if (!Object.hasOwn(words, language)) {
    res.status(400).json({ error: `no greeting in "${language}"; there is ${Object.keys(words).join(', ')}` });
    return;
  }
  res.json({ greeting: `${words[language][time]}, ${req.query.name || 'World'}` });
};

exports.morning = greet('morning');
exports.evening = greet('evening');
exports.languages = (req, res) => {
  res.json(Object.keys(words));
};
