// What std::regex finds, for tests/peers_text.rs.
//
// Reads lines of two words in hexadecimal, pattern and text ("-" if empty), and answers each with a line: "invalid", "large", "slow", or
// the groups of a whole match, "/", and every match a search finds, each with its groups.
// Build with -std=c++17, not gnu++17: in the latter more escapes are accepted.

#include <iostream>
#include <regex>
#include <string>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

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

static void answer(const std::string & pattern, const std::string & text)
{
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

int main()
{
    std::vector<std::string> words;
    for (std::string word; std::cin >> word;)
        words.push_back(unhex(word));
    // A child answers, until a case takes it more than a second or its stack; the next child goes on after that case.
    auto * next = static_cast<size_t *>(
        mmap(nullptr, sizeof(size_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    *next = 0;
    while (*next + 1 < words.size()) {
        if (pid_t child = fork()) {
            int status = 0;
            waitpid(child, &status, 0);
            if (status != 0) {
                std::cout << "slow\n" << std::flush;
                *next += 2;
            }
        } else {
            while (*next + 1 < words.size()) {
                alarm(1);
                answer(words[*next], words[*next + 1]);
                std::cout << std::flush;
                *next += 2;
            }
            _exit(0);
        }
    }
}
