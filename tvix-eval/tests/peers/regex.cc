// What std::regex finds, for tests/peers_text.rs.
//
// Reads lines of two words in hexadecimal, pattern and text ("-" if empty), and answers each with a line: "invalid", "large", or
// the groups of a whole match, "/", and every match a search finds, each with its groups.
// Build with -std=c++17, not gnu++17: in the latter more escapes are accepted.

#include <iostream>
#include <regex>
#include <string>

using Results = std::match_results<const char *>;

static std::string unhex(const std::string & word)
{
    std::string bytes;
    if (word != "-")
        for (size_t i = 0; i + 1 < word.size(); i += 2)
            bytes.push_back((char) std::stoi(word.substr(i, 2), nullptr, 16));
    return bytes;
}

static void groups(const Results & found, const char * begin, size_t from)
{
    for (size_t i = from; i < found.size(); ++i)
        if (found[i].matched)
            std::cout << ' ' << found[i].first - begin << '-' << found[i].second - begin;
        else
            std::cout << " _";
}

int main()
{
    std::string pattern, text;
    while (std::cin >> pattern >> text) {
        pattern = unhex(pattern);
        text = unhex(text);
        try {
            std::regex regex(pattern, std::regex::extended);
            const char *begin = text.c_str(), *end = begin + text.size();
            Results found;
            if (std::regex_match(begin, end, found, regex)) {
                std::cout << "match";
                groups(found, begin, 1);
            } else
                std::cout << "none";
            std::cout << " /";
            for (std::cregex_iterator i(begin, end, regex), stop; i != stop; ++i) {
                std::cout << " |";
                groups(*i, begin, 0);
            }
            std::cout << '\n';
        } catch (std::regex_error & error) {
            std::cout << (error.code() == std::regex_constants::error_space ? "large" : "invalid") << '\n';
        }
    }
}
